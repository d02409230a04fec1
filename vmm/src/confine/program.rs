//! What the kernel runs at each system call of a thread: a program of classic BPF, made from the answers
//! to calls.
//!
//! The number of the call is searched for as in a sorted list, halving what is left. When a filter is
//! installed, the kernel runs it once for each number that there is, to remember which calls are always
//! let through (`seccomp_cache_prepare_bitmap` in `kernel/seccomp.c`); so the steps to an answer are
//! what installing costs, and what calls with conditions cost afterwards:
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
/// others. Calls of other architectures kill the process. None if conditions are too many for a branch
/// past them.
pub(super) fn assemble(
    answers: impl IntoIterator<Item = (u32, Answer)>,
    otherwise: u32,
) -> Option<BpfProgram> {
    let mut segments = Segments(Vec::with_capacity(ROOM));
    segments.put(0, Answer::Plain(otherwise));
    for (number, answer) in answers {
        segments.put(number, answer);
        segments.put(number.saturating_add(1), Answer::Plain(otherwise));
    }
    let mut program = BpfProgram::with_capacity(ROOM);
    program.extend([
        instruction(code::LOAD, ARCHITECTURE),
        branch(code::IF_EQUAL, ARCH, 1, 0),
        instruction(code::RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(code::LOAD, NUMBER),
    ]);
    search(&mut program, &segments.0)?;
    program.shrink_to_fit();
    Some(program)
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

/// Adds the search for the call's number, which is loaded, among `segments`, and their answers.
fn search(program: &mut BpfProgram, segments: &[(u32, Answer)]) -> Option<()> {
    let (low, high) = segments.split_at(segments.len() / 2);
    let (first, answer) = high.first()?;
    if low.is_empty() {
        return reply(program, answer);
    }
    let at = program.len();
    program.push(instruction(code::IF_AT_LEAST, *first));
    search(program, low)?;
    let past = program.len() - at - 1;
    let node = program.get_mut(at)?;
    match u8::try_from(past) {
        Ok(near) => node.jt = near,
        // Too far for a branch: it jumps.
        Err(_) => {
            node.jf = 1;
            program.insert(at + 1, instruction(code::JUMP, u32::try_from(past).ok()?));
        }
    }
    search(program, high)
}

/// Adds what returns an answer.
fn reply(program: &mut BpfProgram, answer: &Answer) -> Option<()> {
    match answer {
        Answer::Plain(answer) => program.push(instruction(code::RETURN, *answer)),
        Answer::If(any, answer, otherwise) => {
            for all in any {
                check(program, all, *answer)?;
            }
            program.push(instruction(code::RETURN, *otherwise));
        }
    }
    Some(())
}

/// Adds what returns `answer` if all of `conditions` hold, and goes on behind it if not.
fn check(program: &mut BpfProgram, conditions: &[Condition], answer: u32) -> Option<()> {
    let Some((first, others)) = conditions.split_first() else {
        program.push(instruction(code::RETURN, answer));
        return Some(());
    };
    match first {
        // Nothing is one of none.
        Condition::Is(_, values) if values.is_empty() => return Some(()),
        Condition::Is(index, values) => {
            program.push(instruction(code::LOAD, argument(*index)));
            for (left, value) in (0..values.len()).rev().zip(values) {
                program.push(branch(code::IF_EQUAL, *value, u8::try_from(left).ok()?, 0));
            }
        }
        Condition::Bits(index, bits, value) => {
            program.push(instruction(code::LOAD, argument(*index)));
            program.push(instruction(code::AND, *bits));
            program.push(branch(code::IF_EQUAL, *value, 0, 0));
        }
    }
    // The last comparison, if it fails, goes past what follows.
    let at = program.len();
    check(program, others, answer)?;
    let past = u8::try_from(program.len() - at).ok()?;
    program.get_mut(at.checked_sub(1)?)?.jf = past;
    Some(())
}

/// Where the lower half of an argument is.
fn argument(index: u8) -> u32 {
    ARGUMENTS + ARGUMENT * u32::from(index)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

/// An instruction after which so many are skipped, depending on how a comparison ends.
fn branch(code: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    // All codes are of 16 bits.
    sock_filter { code: code as u16, jt: if_true, jf: if_false, k }
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
        let program = assemble((1..600).map(even), NO).unwrap();
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
        let program = assemble((3..90).map(|number| (number, Answer::Plain(YES))), NO).unwrap();
        // The beginning, two branches, three answers.
        assert_eq!(program.len(), 4 + 2 + 3);
    }

    #[test]
    fn the_last_number_but_one_can_have_an_answer_and_the_last_has_the_others() {
        let program = assemble([(u32::MAX - 1, Answer::Plain(YES))], NO).unwrap();
        let answer = |number| run(&program, &Call::new(number, [0; 6])).0;
        assert_eq!([u32::MAX - 2, u32::MAX - 1, u32::MAX].map(answer), [NO, YES, NO]);
    }

    #[test]
    fn calls_of_another_architecture_kill() {
        let program = assemble([(3, Answer::Plain(YES))], NO).unwrap();
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
        let program = assemble([(9, Answer::If(lists, YES, NO))], 3).unwrap();
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
    fn what_no_branch_can_pass_is_no_program() {
        let many = Condition::Is(0, (0..300).collect());
        for conditions in [vec![many.clone()], vec![Condition::Bits(1, 1, 1), many]] {
            assert_eq!(assemble([(9, Answer::If(vec![conditions], YES, NO))], NO), None);
        }
    }
}
