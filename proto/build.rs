//! Compiles the contract with a compiler that needs no `protoc`, and keeps the
//! descriptor for reflection and for the golden test.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=adrastea/v1/launcher.proto");
    let descriptors = protox::compile(["adrastea/v1/launcher.proto"], ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // It carries the user's token: its Debug is written by hand.
        .skip_debug(["adrastea.v1.StartRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
