//! Any requests, good and bad, on a real image, against a disk that is a vector of bytes.

use super::test_disk::*;
use crate::config::DiskFormat;
use proptest::prelude::*;

/// Sectors of the disk: not a multiple of a cluster's.
const SECTORS: u64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    Read { sector: u64, shape: Vec<usize> },
    Write { sector: u64, shape: Vec<usize>, byte: u8 },
    Ranges { kind: u32, ranges: Vec<(u64, u32, u32)> },
    Flush,
    Strange { kind: u32, header: usize, data: usize, room: usize },
    Restart,
    Reboot,
}

fn sector() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..SECTORS,
        1 => SECTORS - 2..SECTORS + 3,
        1 => prop_oneof![Just(u64::MAX), Just(u64::MAX / 512), Just(1 << 63), any::<u64>()],
    ]
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    let whole = prop::collection::vec((0..20_usize).prop_map(|sectors| sectors * 512), 0..5);
    let cut = (1..60_usize, 0..512_usize).prop_map(|(sectors, cut)| vec![cut, sectors * 512 - cut]);
    let large = (1..=2_usize).prop_map(|count| vec![65_536; count]);
    let odd = prop::collection::vec(0..2000_usize, 0..4);
    prop_oneof![4 => whole, 4 => cut, 1 => large, 1 => odd]
}

fn ranges() -> impl Strategy<Value = Vec<(u64, u32, u32)>> {
    let count = prop_oneof![8 => 0..300_u32, 1 => any::<u32>()];
    let flags = prop_oneof![6 => Just(0), 3 => Just(1), 1 => any::<u32>()];
    prop::collection::vec((sector(), count, flags), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(DISCARD), Just(WRITE_ZEROES)];
    prop_oneof![
        6 => (sector(), shape()).prop_map(|(sector, shape)| Step::Read { sector, shape }),
        8 => (sector(), shape(), any::<u8>())
            .prop_map(|(sector, shape, byte)| Step::Write { sector, shape, byte }),
        4 => (kind, ranges()).prop_map(|(kind, ranges)| Step::Ranges { kind, ranges }),
        2 => Just(Step::Flush),
        1 => (any::<u32>(), 0..20_usize, 0..2000_usize, 0..2000_usize).prop_map(
            |(kind, header, data, room)| Step::Strange { kind, header, data, room }
        ),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
    ]
}

/// The disk as it has to be.
struct Model {
    bytes: Vec<u8>,
}

impl Model {
    /// Where `length` bytes from `sector` are, if the disk has them.
    fn place(&self, sector: u64, length: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(sector).ok()?.checked_mul(512)?;
        let end = start.checked_add(length)?;
        (length.is_multiple_of(512) && end <= self.bytes.len()).then_some(start..end)
    }

    /// What comes of ranges; `None` for the places if nothing may happen.
    fn ranges(&self, kind: u32, ranges: &[(u64, u32, u32)]) -> (u8, Vec<std::ops::Range<usize>>) {
        let mut places = Vec::new();
        if ranges.is_empty() {
            return (IO_ERROR, places);
        }
        for (sector, count, flags) in ranges {
            if flags & !u32::from(kind == WRITE_ZEROES) != 0 {
                return (UNSUPPORTED, Vec::new());
            }
            match self.place(*sector, *count as usize * 512) {
                Some(place) => places.push(place),
                None => return (IO_ERROR, Vec::new()),
            }
        }
        (OK, places)
    }
}

fn filled(byte: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| byte ^ (index / 512) as u8 ^ index as u8).collect()
}

fn play(format: DiskFormat, steps: &[Step]) {
    let size = (SECTORS * 512) as usize;
    let (disk, _directory) = new_disk(format, size as u64);
    let mut guest = Guest::start(&disk);
    let mut model = Model { bytes: vec![0; size] };
    for step in steps {
        match step {
            Step::Read { sector, shape } => {
                let answer = guest.ask(&header(IN, *sector), &[], shape);
                let length = shape.iter().sum();
                match model.place(*sector, length) {
                    Some(place) => {
                        assert_eq!((answer.status, answer.length as usize), (OK, length + 1));
                        assert!(answer.data == model.bytes[place], "{step:?}");
                    }
                    None => assert_eq!(answer.status, IO_ERROR, "{step:?}"),
                }
            }
            Step::Write { sector, shape, byte } => {
                let data = filled(*byte, shape.iter().sum());
                let (mut rest, mut pieces) = (data.as_slice(), Vec::new());
                for length in shape {
                    let (piece, later) = rest.split_at(*length);
                    pieces.push(piece);
                    rest = later;
                }
                let answer = guest.ask(&header(OUT, *sector), &pieces, &[]);
                assert_eq!(answer.length, 1);
                match model.place(*sector, data.len()) {
                    Some(place) => {
                        assert_eq!(answer.status, OK, "{step:?}");
                        model.bytes[place].copy_from_slice(&data);
                    }
                    None => assert_eq!(answer.status, IO_ERROR, "{step:?}"),
                }
            }
            Step::Ranges { kind, ranges } => {
                let data: Vec<u8> = ranges
                    .iter()
                    .flat_map(|(at, count, flags)| range(*at, *count, *flags))
                    .collect();
                let (status, places) = model.ranges(*kind, ranges);
                assert_eq!(guest.ask(&header(*kind, 0), &[&data], &[]).status, status, "{step:?}");
                for place in places {
                    if *kind == WRITE_ZEROES {
                        model.bytes[place].fill(0);
                        continue;
                    }
                    // What is left of it is the host's choice: here as it was, or zeroes.
                    for sector in place.step_by(512) {
                        let found = guest.read(sector as u64 / 512, 512).data;
                        let old = &mut model.bytes[sector..sector + 512];
                        assert!(found == old || found == [0; 512], "{step:?}");
                        old.copy_from_slice(&found);
                    }
                }
            }
            Step::Flush => assert_eq!(guest.flush(), OK),
            Step::Strange { kind, header: length, data, room } => {
                // What does nothing: a header that is too short, or another kind of request.
                let kind = kind | 0x100;
                let header = header(kind, 0);
                let length = (*length).min(16);
                let whole = length == 16;
                let data = if whole { vec![0; *data] } else { vec![] };
                let answer = guest.ask(&header[..length], &[&data], &[*room]);
                assert_eq!(answer.status, if whole { UNSUPPORTED } else { IO_ERROR });
            }
            Step::Restart => guest.driver.restart(),
            Step::Reboot => guest.reboot(),
        }
    }
    drop(guest);
    assert!(contents(&disk) == model.bytes, "what is left in the image");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_raw_disk_does_what_a_disk_does(steps in prop::collection::vec(step(), 1..60)) {
        play(DiskFormat::Raw, &steps);
    }

    #[test]
    fn a_qcow2_disk_does_what_a_disk_does(steps in prop::collection::vec(step(), 1..60)) {
        play(DiskFormat::Qcow2, &steps);
    }
}
