#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nettlp_gdb_fuzz::attach(data));
