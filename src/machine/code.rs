//! Machine code for the functions of the synthetic kernel: just enough that return addresses and frame
//! pointers on stacks mean something.
//!
//! Each function is `endbr64; push rbp; mov rbp, rsp`, its calls, `pop rbp; ret`.

use std::collections::HashMap;

use super::{c::Function, dwarf_writer::Frame};

const PROLOGUE: [u8; 8] = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5];
const EPILOGUE: [u8; 2] = [0x5d, 0xc3];
const CALL_LEN: u64 = 5;
const ALIGN: u64 = 16;
const INT3: u8 = 0xcc;

/// A function's place in the text.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) calls: Vec<String>,
    pub(super) file: usize,
}

impl Placed {
    /// Offset of the instruction behind the call of `callee`.
    pub(super) fn return_offset(&self, callee: &str) -> Option<u64> {
        let index = self.calls.iter().position(|call| call == callee)?;
        Some(self.offset + PROLOGUE.len() as u64 + CALL_LEN * (index as u64 + 1))
    }
}

/// The text, and where each function is in it; `Err` names a function that is called but does not exist.
pub(super) fn assemble(functions: &[Function]) -> Result<(Vec<u8>, Vec<Placed>), String> {
    let mut offset = 0;
    let mut placed = Vec::new();
    for function in functions {
        let size = (PROLOGUE.len() + EPILOGUE.len()) as u64 + CALL_LEN * function.calls.len() as u64;
        let (name, calls) = (function.name.clone(), function.calls.clone());
        placed.push(Placed { name, offset, size, calls, file: function.file });
        offset = (offset + size).next_multiple_of(ALIGN);
    }
    let starts: HashMap<&str, u64> = placed.iter().map(|f| (f.name.as_str(), f.offset)).collect();
    let mut text = Vec::new();
    for function in &placed {
        text.resize(usize::try_from(function.offset).unwrap_or_default(), INT3);
        text.extend(PROLOGUE);
        for callee in &function.calls {
            let target = starts.get(callee.as_str()).ok_or_else(|| callee.clone())?;
            let next = text.len() as u64 + CALL_LEN;
            text.push(0xe8);
            text.extend((target.wrapping_sub(next) as u32).to_le_bytes());
        }
        text.extend(EPILOGUE);
    }
    Ok((text, placed))
}

/// How to find the caller of a function of `size` bytes.
pub(super) fn frame(size: u64, outermost: bool) -> Frame {
    /// Bytes of the last instruction, `ret`.
    const RET_LEN: u64 = 1;
    Frame { pushed: 5, established: 8, popped: (size - RET_LEN) as u32, outermost }
}
