//! The checked-in code is what the interface says.
#![allow(clippy::unwrap_used)]

use std::{env, fs, path::Path};

#[test]
fn the_generated_code_matches_the_interface() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&out).unwrap();
    let interfaces = ["revisions", "runs"].map(|name| format!("proto/trellis/saga/v1/{name}.proto"));
    let files = protox::compile(interfaces, ["proto"]).unwrap();
    tonic_prost_build::configure()
        .out_dir(&out)
        .compile_fds(files)
        .unwrap();

    let name = "trellis.saga.v1.rs";
    let expected = fs::read_to_string(out.join(name)).unwrap();
    let checked_in = Path::new("src/generated").join(name);
    if env::var_os("TRELLIS_WRITE").is_some() {
        fs::write(&checked_in, &expected).unwrap();
    }
    let actual = fs::read_to_string(&checked_in).unwrap();
    assert!(
        actual == expected,
        "the interface changed: run TRELLIS_WRITE=1 cargo test -p trellis-saga-api"
    );
}
