//! Where the libraries are: $TENON_LIBRARY_PATH, else wherever the linker looks.
fn main() {
    println!("cargo:rerun-if-env-changed=TENON_LIBRARY_PATH");
    if let Ok(folder) = std::env::var("TENON_LIBRARY_PATH") {
        println!("cargo:rustc-link-search=native={}", folder);
    }
}
