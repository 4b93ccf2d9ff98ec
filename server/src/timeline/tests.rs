//! The names and the content of the files of the log.

use super::*;

#[test]
fn a_history_file_says_where_a_timeline_ended() {
    let history = "1\t0/3000148\tno recovery target specified\n\n2\tA/B\tother\n# 3\n";
    assert_eq!(end_in(history, 1), Some(Lsn(0x0300_0148)));
    assert_eq!(end_in(history, 2), Some(Lsn(0xA_0000_000B)));
    assert_eq!(end_in(history, 3), None);
    assert_eq!(end_in("nonsense", 1), None);
}

/// As `pg_walfile_name` of Postgres 15 names them, with the segments that `initdb` makes and with larger ones.
#[test]
fn a_file_of_the_log_is_named_by_its_timeline_and_the_bytes_that_it_has() {
    const MIB: u64 = 1 << 20;
    for (end, segment_bytes, name) in [
        (0x0100_0000, 16 * MIB, "000000020000000000000000"),
        (0x0100_0001, 16 * MIB, "000000020000000000000001"),
        (0xA_FF00_0001, 16 * MIB, "000000020000000A000000FF"),
        (0xA_FF00_0001, 64 * MIB, "000000020000000A0000003F"),
        (0xB_0000_0000, 64 * MIB, "000000020000000A0000003F"),
    ] {
        assert_eq!(segment_file(2, Lsn(end), segment_bytes), name, "{end:X}");
    }
}
