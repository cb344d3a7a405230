use super::*;
#[test]
fn builds() {
    let machine = Machine::demo().unwrap();
    println!("{:#x?}", machine.truth());
}
