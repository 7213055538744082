//! The generated declarations against the golden table of the ABI.
#[test]
fn layout_is_the_golden_one() {
    let path =
        std::env::var("TENON_GOLDEN_LAYOUT").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/abi/layout-0.9.txt").into());
    let golden: Vec<String> = std::fs::read_to_string(path).unwrap().lines().filter(|line| !line.starts_with('#')).map(String::from).collect();
    assert!(golden.len() > 400);
    assert_eq!(tenon_sys::layout(), golden);
}

#[test]
fn sizes_end_with_the_last_field() {
    assert_eq!(tenon_sys::size_to!(tenon_sys::tn_update, grad_scale) as usize, std::mem::size_of::<tenon_sys::tn_update>());
    assert_eq!(tenon_sys::size_to!(tenon_sys::tn_update, reserved), 8);
}
