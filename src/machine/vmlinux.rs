//! x
use super::{
    MachineError, Truth,
    c::{Declarations, Source},
    link::Image,
};
pub(super) fn write(
    _d: &Declarations,
    _s: &[Source],
    _i: &Image,
    _t: &Truth,
) -> Result<Vec<u8>, MachineError> {
    Ok(Vec::new())
}
