//! What the kernel runs at each system call of a thread: a program of classic BPF, made from the answers
//! to calls.
//!
//! The number of the call is searched for as in a sorted list, halving what is left. When a filter is
//! installed, the kernel compiles it, and runs it once for each number that there is, to remember which
//! calls are always let through (`seccomp_cache_prepare_bitmap` in `kernel/seccomp.c`). So the length and
//! the steps to an answer are what installing costs, and the steps are what calls with conditions cost
//! afterwards. Answers that are the same share an instruction:
//!
//! ```text
//!        ld arch; jeq x86_64, else kill; ld number
//!                   number >= 20?
//!             no  /                \  yes
//!         number >= 4?          number >= 23?
//!          /       \              /       \
//!       answer   answer        answer    ld argument; jeq ...
//! ```

use seccompiler::{BpfProgram, sock_filter};

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`: 64-bit, little-endian, `EM_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data` of `linux/seccomp.h`: the call's number, the architecture, and the
/// lower half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Bytes of an argument.
const ARGUMENT: u32 = 8;

/// Room for what there usually is of anything, so that it does not grow piece by piece.
const ROOM: usize = 384;
/// How far back an answer is looked for: a branch passes 255 instructions, and some are still to come
/// between it and the answer.
const NEAR: usize = 200;

/// Instructions: `linux/bpf_common.h`.
mod code {
    pub(super) const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    pub(super) const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    pub(super) const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
    pub(super) const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    pub(super) const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    pub(super) const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
}

/// A condition on an argument, of which the lower 32 bits are looked at: all that is looked at is of 32
/// bits, and the kernel ignores the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The argument with this index is one of these.
    Is(u8, Vec<u32>),
    /// Of these bits (the second number) the argument has those (the third one).
    Bits(u8, u32, u32),
}

/// What a call is answered. Answers are what a filter returns: `SECCOMP_RET_...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This, whatever the arguments.
    Plain(u32),
    /// The first number if all conditions of one of these lists hold, else the second one.
    If(Vec<Vec<Condition>>, u32, u32),
}

/// The program that gives these answers to these calls, sorted by their numbers, and `otherwise` to all
/// others. Calls of other architectures kill the process.
pub(super) fn assemble(
    answers: impl IntoIterator<Item = (u32, Answer)>,
    otherwise: u32,
) -> BpfProgram {
    let mut segments = Segments(Vec::with_capacity(ROOM));
    segments.put(0, Answer::Plain(otherwise));
    for (number, answer) in answers {
        segments.put(number, answer);
        segments.put(number.saturating_add(1), Answer::Plain(otherwise));
    }
    let mut program = Backwards::default();
    let search = program.search(&segments.0);
    let known = program.then(instruction(code::LOAD, NUMBER), search);
    let foreign = program.push(instruction(code::RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    let choice = program.branch(code::IF_EQUAL, ARCH, known, foreign);
    program.then(instruction(code::LOAD, ARCHITECTURE), choice);
    program.reversed.reverse();
    program.reversed
}

/// All numbers, in pieces: the first one of each, and what it and those up to the next piece are
/// answered.
struct Segments(Vec<(u32, Answer)>);

impl Segments {
    /// Has a piece begin at `first`, which is not before the last one.
    fn put(&mut self, first: u32, answer: Answer) {
        self.0.pop_if(|(last, _)| *last == first);
        if self.0.last().is_none_or(|(_, last)| *last != answer) {
            self.0.push((first, answer));
        }
    }
}

/// A place in a program: how many instructions there are from it to the end.
type Place = usize;

/// A program that is made from its end, for all jumps go forward: where they go is there already.
struct Backwards {
    reversed: BpfProgram,
    /// Where it returns what.
    returns: Vec<(u32, Place)>,
}

impl Default for Backwards {
    fn default() -> Self {
        Self { reversed: BpfProgram::with_capacity(ROOM), returns: Vec::new() }
    }
}

impl Backwards {
    /// Puts an instruction before all others.
    fn push(&mut self, instruction: sock_filter) -> Place {
        self.reversed.push(instruction);
        self.reversed.len()
    }

    /// Puts an instruction before all others, after which the program goes on at `next`.
    fn then(&mut self, instruction: sock_filter, next: Place) -> Place {
        if next != self.reversed.len() {
            self.jump(next);
        }
        self.push(instruction)
    }

    fn jump(&mut self, to: Place) -> Place {
        // A program has far fewer than 2^32 instructions.
        self.push(instruction(code::JUMP, (self.reversed.len() - to) as u32))
    }

    /// Goes on at one of two places, depending on how a comparison with `k` ends.
    fn branch(&mut self, code: u32, k: u32, yes: Place, no: Place) -> Place {
        // There may be a jump to the other one in between.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let past = |place: Place| (self.reversed.len() - place) as u8;
        self.push(sock_filter { code: code as u16, jt: past(yes), jf: past(no), k })
    }

    /// `place`, or a jump to it, if it is too far for a branch after `more` instructions.
    fn near(&mut self, place: Place, more: usize) -> Place {
        match u8::try_from(self.reversed.len() + more - place) {
            Ok(_) => place,
            Err(_) => self.jump(place),
        }
    }

    /// What returns `answer`: if it is near, where that is done for another call already.
    fn returning(&mut self, answer: u32) -> Place {
        let near = self.reversed.len().saturating_sub(NEAR);
        let there = |(of, place): &&(u32, Place)| *of == answer && *place >= near;
        if let Some((_, place)) = self.returns.iter().find(there) {
            return *place;
        }
        let place = self.push(instruction(code::RETURN, answer));
        self.returns.retain(|(of, _)| *of != answer);
        self.returns.push((answer, place));
        place
    }

    /// The search for the call's number, which is loaded, among `segments`, and their answers.
    fn search(&mut self, segments: &[(u32, Answer)]) -> Place {
        let (low, high) = segments.split_at(segments.len() / 2);
        match high {
            // There is always one that begins with 0.
            [] => self.returning(libc::SECCOMP_RET_KILL_PROCESS),
            [(_, answer)] if low.is_empty() => self.reply(answer),
            [(first, _), ..] => {
                let yes = self.search(high);
                let no = self.search(low);
                self.branch(code::IF_AT_LEAST, *first, yes, no)
            }
        }
    }

    /// What returns an answer.
    fn reply(&mut self, answer: &Answer) -> Place {
        match answer {
            Answer::Plain(answer) => self.returning(*answer),
            Answer::If(any, answer, otherwise) => {
                let (yes, otherwise) = (self.returning(*answer), self.returning(*otherwise));
                any.iter().rev().fold(otherwise, |no, all| {
                    all.iter().rev().fold(yes, |yes, one| self.check(one, yes, no))
                })
            }
        }
    }

    /// What looks whether a condition holds.
    fn check(&mut self, condition: &Condition, yes: Place, no: Place) -> Place {
        match condition {
            // Nothing is one of none.
            Condition::Is(_, values) if values.is_empty() => no,
            Condition::Is(index, values) => {
                let first = values
                    .iter()
                    .rev()
                    .fold(no, |no, value| self.branch(code::IF_EQUAL, *value, yes, no));
                self.then(instruction(code::LOAD, argument(*index)), first)
            }
            Condition::Bits(index, bits, value) => {
                let compare = self.branch(code::IF_EQUAL, *value, yes, no);
                let mask = self.then(instruction(code::AND, *bits), compare);
                self.then(instruction(code::LOAD, argument(*index)), mask)
            }
        }
    }
}

/// Where the lower half of an argument is.
fn argument(index: u8) -> u32 {
    ARGUMENTS + ARGUMENT * u32::from(index)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    // All codes are of 16 bits.
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A call as the kernel shows it to a filter.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Call {
        pub(in super::super) number: u32,
        pub(in super::super) architecture: u32,
        pub(in super::super) arguments: [u64; 6],
    }

    impl Call {
        pub(in super::super) fn new(number: u32, arguments: [u64; 6]) -> Self {
            Self { number, architecture: ARCH, arguments }
        }

        /// The 32 bits at this offset of what a filter is given.
        fn word(&self, offset: u32) -> u32 {
            match offset {
                NUMBER => self.number,
                ARCHITECTURE => self.architecture,
                _ => {
                    let at = offset.checked_sub(ARGUMENTS).unwrap();
                    let argument = self.arguments[(at / ARGUMENT) as usize];
                    match at % ARGUMENT {
                        0 => argument as u32,
                        4 => (argument >> 32) as u32,
                        odd => panic!("loads at {odd} of an argument"),
                    }
                }
            }
        }
    }

    /// What `program` returns for `call`, and after how many instructions.
    pub(in super::super) fn run(program: &[sock_filter], call: &Call) -> (u32, usize) {
        let (mut at, mut register) = (0_usize, 0_u32);
        for steps in 1..=program.len() {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let holds = match u32::from(code) {
                code::LOAD => {
                    register = call.word(k);
                    continue;
                }
                code::AND => {
                    register &= k;
                    continue;
                }
                code::JUMP => {
                    at += k as usize;
                    continue;
                }
                code::RETURN => return (k, steps),
                code::IF_EQUAL => register == k,
                code::IF_AT_LEAST => register >= k,
                other => panic!("no such instruction: {other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
        panic!("it has no loops, so no instruction is run twice");
    }

    const YES: u32 = 1;
    const NO: u32 = 2;

    #[test]
    fn a_number_has_its_answer_however_far_it_is() {
        // The low half is too long for a branch.
        let even = |number: u32| (number * 2, Answer::Plain(YES));
        let program = assemble((1..600).map(even), NO);
        assert!(program.iter().any(|word| u32::from(word.code) == code::JUMP));
        for number in (0..1_300).chain([0x4000_0002, u32::MAX]) {
            let wanted = if number % 2 == 0 && (2..1_200).contains(&number) { YES } else { NO };
            let (answer, steps) = run(&program, &Call::new(number, [0; 6]));
            assert_eq!(answer, wanted, "{number}");
            assert!(steps <= 24, "{number}: {steps} steps");
        }
    }

    #[test]
    fn neighbours_with_one_answer_are_one_piece() {
        let program = assemble((3..90).map(|number| (number, Answer::Plain(YES))), NO);
        // The beginning, two branches, two answers.
        assert_eq!(program.len(), 4 + 2 + 2);
    }

    #[test]
    fn the_last_number_but_one_can_have_an_answer_and_the_last_has_the_others() {
        let program = assemble([(u32::MAX - 1, Answer::Plain(YES))], NO);
        let answer = |number| run(&program, &Call::new(number, [0; 6])).0;
        assert_eq!([u32::MAX - 2, u32::MAX - 1, u32::MAX].map(answer), [NO, YES, NO]);
    }

    #[test]
    fn calls_of_another_architecture_kill() {
        let program = assemble([(3, Answer::Plain(YES))], NO);
        // AUDIT_ARCH_I386
        let call = Call { architecture: 0x4000_0003, ..Call::new(3, [0; 6]) };
        assert_eq!(run(&program, &call).0, libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn one_list_of_conditions_has_to_hold_as_a_whole() {
        let is = |index, values: &[u32]| Condition::Is(index, values.to_vec());
        let lists = vec![
            vec![is(0, &[7]), is(2, &[1, 2, 3])],
            vec![Condition::Bits(1, 0b110, 0b100)],
            vec![is(5, &[])],
        ];
        let program = assemble([(9, Answer::If(lists, YES, NO))], 3);
        let answer = |arguments| run(&program, &Call::new(9, arguments)).0;
        let high = 1 << 32;
        for arguments in [[7, 0, 1, 0, 0, 0], [7, 0, 3 | high, 0, 0, 0], [0, 0b101, 0, 0, 0, 0]] {
            assert_eq!(answer(arguments), YES, "{arguments:?}");
        }
        for arguments in [
            [7, 0, 4, 0, 0, 0],
            [6, 0, 1, 0, 0, 0],
            [0, 0b110, 0, 0, 0, 0],
            [0, 0b010, 0, 0, 0, 0],
            [0, 4 * high, 0, 0, 0, 0],
        ] {
            assert_eq!(answer(arguments), NO, "{arguments:?}");
        }
        assert_eq!(run(&program, &Call::new(8, [7, 0, 1, 0, 0, 0])).0, 3);
    }

    #[test]
    fn conditions_may_be_more_than_a_branch_can_pass() {
        let many = Condition::Is(0, (0..300).collect());
        let lists = vec![vec![Condition::Bits(1, 1, 1), many.clone()], vec![many]];
        let program = assemble([(9, Answer::If(lists, YES, NO))], NO);
        for (argument, wanted) in [(0, YES), (299, YES), (300, NO)] {
            for bit in [0, 1] {
                let call = Call::new(9, [argument, bit, 0, 0, 0, 0]);
                assert_eq!(run(&program, &call).0, wanted, "{argument} {bit}");
            }
        }
    }
}
