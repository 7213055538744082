//! Finds the Rust form of the installed headers.
fn main() {
    let out = std::process::Command::new("pkg-config")
        .args(["--variable=rust", "tenon-abi"])
        .output()
        .expect("pkg-config is missing");
    assert!(
        out.status.success(),
        "Tenon is not found: set PKG_CONFIG_PATH to its lib/pkgconfig"
    );
    println!(
        "cargo:rustc-env=TENON_ABI_RS={}",
        String::from_utf8_lossy(&out.stdout).trim()
    );
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
}
