//! Whether this machine can run sandboxes that are virtual machines: if not, why not, in words.
//! What a device file says is not believed: KVM is asked to make a machine.

use std::{env, fs::File, os::fd::AsRawFd, path::PathBuf};

/// Kata's shim, where it is installed: `ADRASTEA_KATA_SHIM`, or where its releases lie.
pub fn kata_shim() -> Option<PathBuf> {
    let named = env::var_os("ADRASTEA_KATA_SHIM").map(PathBuf::from);
    let places = ["/opt/kata/runtime-rs/bin", "/opt/kata/bin", "/usr/local/bin", "/usr/bin"];
    let installed = places.map(|place| PathBuf::from(place).join("containerd-shim-kata-v2"));
    named.into_iter().chain(installed).find(|path| path.is_file())
}

/// Why no virtual machine can be started here.
pub fn why_none() -> Option<String> {
    if kata_shim().is_none() {
        return Some("no containerd-shim-kata-v2 on this machine".into());
    }
    makes_machine().err().map(|error| format!("no usable KVM on this machine: {error}"))
}

/// Has KVM make an empty machine, and lets it go.
fn makes_machine() -> std::io::Result<()> {
    // `_IO(0xAE, 0x01)`, with the ordinary type of machine.
    const KVM_CREATE_VM: libc::c_ulong = 0xae01;
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the call takes a number and gives a descriptor, or -1.
    let machine = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM, 0 as libc::c_ulong) };
    if machine < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just given to us, and nobody else knows it.
    let closed = unsafe { libc::close(machine) };
    if closed < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
