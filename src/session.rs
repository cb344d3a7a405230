//! The composition root: from options to a located kernel.
//!
//! Memory is a stack of wrappers over its source, read from the top: the guard (what is known to be RAM), the cache
//! (for how long an answer holds), the fence (what is never asked for), the counts (what crosses the link), then the
//! adapter or the image.

mod ahead;
pub mod debug_file;
pub mod handout;
pub mod writing;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use crate::{
    addr::{self, PhysRange, VirtAddr},
    kernel::{
        Kernel, KernelError, KernelMap, UserMemory, boot,
        btf::{self, BtfError},
        kallsyms::TargetSymbols,
        locate::{self, Given, Hints, LocateError, Progress},
        module, module_symbols,
        registers::Registers,
    },
    link::{self, Client, LinkError},
    mem::{
        PhysMem,
        cache::{Below, Cache, Validity},
        fence::Fence,
        file::{ImageError, ImageFile, ImageSpec},
        guard::{Guard, Limits},
        remote::Remote,
        stats::{Counts, Stats},
    },
    paging::{AddressSpace, VirtMem},
    profile,
    symbols::{
        self, Relocated, SymbolTable,
        elf::ElfSymbols,
        lines::{DwarfLines, SourceLines},
    },
    synth::{
        self, SymbolFile,
        modules::Loaded,
        vmlinux::{SynthError, Synthesized},
    },
    types::{self, TypeSource, btf::Btf, dwarf::Dwarf},
    vmlinux::{Vmlinux, VmlinuxError},
};

/// Where the target's memory is.
#[derive(Clone)]
pub enum Source {
    /// Behind a NetTLP adapter.
    Adapter(link::Config),
    /// In files.
    Images(Vec<ImageSpec>),
    /// In this process: a synthetic machine.
    Memory(Arc<dyn PhysMem>),
}

/// What a session is opened with.
#[derive(Clone)]
pub struct Options {
    /// The target.
    pub source: Source,
    /// The kernel's own file, or one that has its types only.
    pub vmlinux: Option<PathBuf>,
    /// What the operator's profile says of the kernel: of it `phys_base`, `slide`, `symbols` and `structs` are used.
    pub known: profile::Kernel,
    /// The operator's RAM ranges; no bound when empty.
    pub ram: Vec<PhysRange>,
    /// Ranges of which no byte is ever read.
    pub forbidden: Vec<PhysRange>,
    /// Go on when the vmlinux is of another build.
    pub force: bool,
    /// How long what was read holds.
    pub validity: Validity,
    /// What may be looked at of processes.
    pub user_memory: UserMemory,
}

impl Options {
    /// All of `source` may be read, of any kernel, with nothing known of it beforehand; what was read holds for a stop.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            vmlinux: None,
            known: profile::Kernel::default(),
            ram: Vec::new(),
            forbidden: Vec::new(),
            force: false,
            validity: Validity::Stop,
            user_memory: UserMemory::All,
        }
    }
}

/// Why a session cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The link cannot be set up.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The vmlinux cannot be used.
    #[error(transparent)]
    Vmlinux(#[from] VmlinuxError),
    /// No kernel was found, or not the one the vmlinux is of.
    #[error(transparent)]
    Locate(#[from] LocateError),
}

/// Why no vmlinux can be made of the kernel's memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthesisError {
    /// There are no symbols.
    #[error(transparent)]
    Symbols(#[from] KernelError),
    /// There are no types.
    #[error("a vmlinux needs types: {0}")]
    Types(#[from] BtfError),
    /// They do not make a vmlinux.
    #[error(transparent)]
    Synth(#[from] SynthError),
}

type Fenced = Fence<Stats<Arc<dyn PhysMem>>>;

/// An image has no requests: what it would cost over a link at the usual MRRS is counted.
const USUAL_MRRS: u64 = 512;

/// The bottom of the stack.
struct Bottom {
    memory: Arc<dyn PhysMem>,
    link: Option<Arc<Remote>>,
    /// Bytes that one request carries.
    request_bytes: u64,
    /// What is known to be memory before anything is read: all an image holds can be.
    ranges: Vec<PhysRange>,
}

fn open_source(source: Source) -> Result<Bottom, SessionError> {
    let (memory, link, request_bytes, ranges): (Arc<dyn PhysMem>, _, _, _) = match source {
        Source::Adapter(config) => {
            let remote = Arc::new(Remote::new(Client::connect(&config)?));
            (remote.clone(), Some(remote), u64::from(config.mrrs), Vec::new())
        }
        Source::Images(specs) => {
            let image = ImageFile::open(&specs)?;
            let ranges = image.ranges();
            (Arc::new(image), None, USUAL_MRRS, ranges)
        }
        Source::Memory(memory) => (memory, None, USUAL_MRRS, Vec::new()),
    };
    Ok(Bottom { memory, link, request_bytes, ranges })
}

/// The symbols of a vmlinux; `None` for an object file and for what was stripped down to its types.
fn symbols_of(file: &Arc<Vmlinux>) -> Result<Option<ElfSymbols>, VmlinuxError> {
    if file.is_relocatable() {
        return Ok(None);
    }
    match ElfSymbols::new(Arc::clone(file)) {
        Err(VmlinuxError::NoSymbols { .. }) if file.section(".debug_info").is_some() => {
            log::info!("{} has types and no symbols", file.name());
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}

/// Lets the kernel's text and read-only data, which change less often than the rest, hold until the next stop: the kernel
/// patches its text, for static keys and tracing, and at another boot both may be others. Where one ends in the middle of
/// 2 MiB, or does not begin as the linker leaves it, there may be pages that were given to the allocator.
fn hold(cache: &Cache<Fenced>, map: &KernelMap) {
    const LARGE: u64 = 2 << 20;
    for range in [map.text_pages, map.rodata].into_iter().flatten() {
        if let Some(whole) = PhysRange::new(range.start, range.end.align_down(LARGE))
            && range.start.offset_in(LARGE) == 0
        {
            cache.hold(whole);
        }
    }
}

/// The types in the kernel's memory, where its own symbols or else the image has them.
fn own_types(memory: &Arc<dyn VirtMem>, map: &KernelMap, kallsyms: &Arc<TargetSymbols>) -> btf::InMemory {
    let symbols = map.slide.map(|slide| Relocated::new(Box::new(Arc::clone(kallsyms)), slide));
    btf::InMemory::new(Arc::clone(memory), map, symbols)
}

fn given(known: &profile::Kernel) -> Given {
    let symbol = |name: &str| known.symbols.get(name).copied();
    Given {
        phys_base: known.phys_base,
        slide: known.slide,
        root: locate::TOP_LEVEL_TABLE.iter().find_map(|name| symbol(name)),
        init_task: symbol("init_task"),
    }
}

/// Registers that the stacks of a dead machine's CPUs tell.
#[derive(Debug, Clone)]
pub struct OnStacks {
    /// The tasks that the CPUs ran: while these are the same, so are the stacks.
    pub tasks: Vec<Option<VirtAddr>>,
    /// Of each CPU, and whether it stood exactly there.
    pub registers: Vec<Option<(Registers, bool)>>,
}

/// A target that was attached to.
pub struct Session {
    /// The kernel found there.
    pub kernel: Arc<Kernel>,
    /// The symbol table the kernel carries for itself, read when it is asked for.
    pub kallsyms: Arc<TargetSymbols>,
    /// The types it carries for itself, likewise.
    own_types: Arc<btf::InMemory>,
    /// Its physical memory, confined to its RAM.
    pub phys: Arc<dyn PhysMem>,
    /// Its physical memory past the cache, likewise confined.
    past: Arc<Guard>,
    /// The kernel's virtual memory past the cache, for what must be seen as it is at this moment.
    pub now: Arc<dyn VirtMem>,
    /// What was found on the stacks of a dead machine's CPUs, which change no more.
    pub on_stacks: Mutex<Option<OnStacks>>,
    /// What a GDB is handed that comes without a file.
    pub symbol_file: Option<SymbolFile>,
    lines: Option<DwarfLines>,
    /// What this boot is known by.
    marks: Option<boot::Marks>,
    cache: Arc<Cache<Fenced>>,
    ahead: ahead::Ahead,
    link: Option<Arc<Remote>>,
    rights: Option<writing::Rights>,
    attach: Counts,
}

impl Session {
    /// Opens the source, finds the kernel in it and reads what the vmlinux says of it. `progress` is told each
    /// step that may take long.
    ///
    /// # Errors
    /// [`SessionError`], one sentence for each thing that can be wrong.
    pub fn open(options: Options, progress: &dyn Fn(Progress)) -> Result<Self, SessionError> {
        let vmlinux = options.vmlinux.as_deref().map(Vmlinux::open).transpose()?;
        let Bottom { memory, link, request_bytes, ranges } = open_source(options.source)?;
        let image = !ranges.is_empty();
        let counted = Stats::new(memory, request_bytes);
        let (ram, ranges) = (addr::merged(options.ram), addr::merged(ranges));
        let fenced = Fence::new(counted, ram.clone(), options.forbidden);
        let cache = Arc::new(Cache::new(fenced, options.validity));
        cache.read_ahead(false);
        let below: Arc<dyn PhysMem> = cache.clone();
        let limits = [Limits::Operator(ram.into()), Limits::Image(ranges.into())];
        let limits = limits.into_iter().find(|limits| !limits.ranges().is_empty());
        let guard = Arc::new(Guard::new(below, limits.clone()));

        let symbols = vmlinux.as_ref().map(symbols_of).transpose()?.flatten();
        let types = vmlinux.as_ref().map(|file| Dwarf::new(file.clone())).transpose()?.map(Arc::new);
        let types = types.map(|types| -> Arc<dyn TypeSource> { types });
        let hints = Hints {
            symbols: symbols.as_ref().map(|symbols| -> &dyn SymbolTable { symbols }),
            types: types.as_deref(),
            build_id: vmlinux.as_ref().and_then(|file| file.build_id()),
            vmlinux_name: vmlinux.as_ref().map(|file| file.name()),
            given: given(&options.known),
            force: options.force,
            image,
            progress: Some(progress),
        };
        let map = locate::locate(&guard, &hints).inspect_err(|_| {
            let refused = cache.inner().refused();
            if refused > 0 {
                log::warn!("{refused} reads on the way were refused by `memory.forbidden` of the profile");
            }
        })?;

        hold(&cache, &map);
        cache.read_ahead(true);
        let past = Guard::new(Arc::new(Below(Arc::clone(&cache))), limits);
        past.confine(&guard.permitted());
        let past = Arc::new(past);
        let now: Arc<dyn VirtMem> =
            Arc::new(AddressSpace::new(Arc::clone(&past) as _, map.root, map.levels, map.sme_mask));
        let phys: Arc<dyn PhysMem> = guard;
        let memory: Arc<dyn VirtMem> =
            Arc::new(AddressSpace::new(Arc::clone(&phys), map.root, map.levels, map.sme_mask));
        let kallsyms = Arc::new(TargetSymbols::new(Arc::clone(&memory), Arc::clone(&phys), map.clone()));
        let own_types = Arc::new(own_types(&memory, &map, &kallsyms));
        let types = types.unwrap_or_else(|| own_types.clone());
        let mut symbols: Box<dyn SymbolTable> = match symbols {
            Some(symbols) => Box::new(symbols),
            None => Box::new(Arc::clone(&kallsyms)),
        };
        let profile::Kernel { structs, symbols: listed, .. } = options.known;
        if !listed.is_empty() {
            symbols = Box::new(symbols::profile::ProfileSymbols::new(listed, symbols));
        }
        let types = match structs.is_empty() {
            true => types,
            false => Arc::new(types::profile::ProfileTypes::new(&structs, types)),
        };
        let symbols = map.slide.map(|slide| Relocated::new(symbols, slide));
        let kernel = Kernel { map, memory, symbols, types: Some(types), policy: options.user_memory };
        // Those of an object file are of code that was not linked.
        let lines = vmlinux.filter(|file| !file.is_relocatable()).map(DwarfLines::new);
        let attach = cache.inner().inner().counts();
        Ok(Self {
            kernel: Arc::new(kernel),
            kallsyms,
            own_types,
            phys,
            past,
            now,
            marks: None,
            on_stacks: Mutex::default(),
            symbol_file: None,
            lines,
            cache,
            ahead: ahead::Ahead::new(),
            link,
            rights: None,
            attach,
        })
    }

    /// Makes a vmlinux of what the kernel's own memory says: its symbols (the given vmlinux's, if there is one) and its
    /// BTF.
    ///
    /// # Errors
    /// [`SynthesisError`].
    pub fn synthesize(&self) -> Result<Synthesized, SynthesisError> {
        let kernel = &*self.kernel;
        let symbols = kernel.symbols("a vmlinux")?;
        let btf = self.own_types.btf()?;
        // Only what the kernel itself says makes a whole file; modules come and go.
        let modules = self.module_types(&btf);
        let modules: Vec<_> = modules.iter().map(|(name, types)| (name.as_str(), types)).collect();
        Ok(synth::vmlinux::write(&synth::vmlinux::Input {
            symbols: symbols.table(),
            btf: &btf,
            modules: &modules,
            build_id: kernel.map.build_id.as_deref(),
            release: kernel.map.release.as_deref(),
            banner: kernel.map.banner.as_deref(),
        })?)
    }

    /// To be told what a debugger has read of the kernel's memory: reads ahead of it where it walks a list.
    pub fn was_read(&self, addr: VirtAddr, len: usize) {
        self.ahead.of_read(&self.kernel, addr, len, self.cache.picture(), self.cache.surprises());
    }

    /// Makes a symbol file of the modules loaded now, at the addresses they run at. It has their types where the
    /// kernel carries any.
    ///
    /// # Errors
    /// [`SynthesisError`].
    pub fn synthesize_modules(&self) -> Result<Synthesized, SynthesisError> {
        let kernel = &*self.kernel;
        let reader = module_symbols::ModuleSymbols::resolve(kernel)?;
        let modules = module::list(kernel)?;
        let types = match self.own_types.btf() {
            Ok(btf) => self.module_types(&btf),
            Err(error) => {
                log::info!("the symbols of modules come without types: {error}");
                Vec::new()
            }
        };
        let mut symbols = Vec::new();
        for module in &modules {
            symbols.push(if module.is_formed() { reader.of(module)? } else { Vec::new() });
        }
        let typed = |name: &str| types.iter().find(|(module, _)| module == name).map(|(_, types)| types);
        let loaded = modules.iter().zip(&symbols);
        let loaded: Vec<_> =
            loaded.map(|(module, symbols)| Loaded { module, symbols, types: typed(&module.name) }).collect();
        let table = kernel.symbols("the symbols of modules")?;
        let percpu_slide = table.table().zero_based_percpu().map_or(0, |_| table.slide());
        Ok(synth::modules::write(&loaded, percpu_slide)?)
    }

    /// The types of each module that has any; those of the others are missed, not needed.
    fn module_types(&self, kernel: &Arc<Btf>) -> Vec<(String, Btf)> {
        let modules = btf::modules(&self.kernel, kernel).unwrap_or_else(|error| {
            log::warn!("there are no types of modules: {error}");
            Vec::new()
        });
        let typed = modules.into_iter().filter_map(|one| match one.types {
            Ok(types) => Some((one.module, types)),
            Err(error) => {
                log::warn!("there are no types of module {}: {error}", one.module);
                None
            }
        });
        typed.collect()
    }

    /// Forgets what was read, so that the next read sees the target as it is now.
    pub fn refresh(&self) {
        self.cache.invalidate();
        self.kallsyms.retry();
    }

    /// Notes what this boot is known by, for [`Session::booted_anew`].
    pub fn mark_boot(&mut self) {
        self.marks = Some(boot::Marks::take(&self.kernel, &self.past, &*self.now));
    }

    /// Whether the host was booted anew since [`Session::mark_boot`], so that nothing known of its kernel holds. Reads
    /// past the cache; what cannot be read proves nothing.
    #[must_use]
    pub fn booted_anew(&self) -> bool {
        self.marks.as_ref().is_some_and(|marks| marks.differ(&self.past, &*self.now))
    }

    /// The source lines of the vmlinux, if one was given.
    #[must_use]
    pub fn lines(&self) -> Option<&dyn SourceLines> {
        self.lines.as_ref().map(|lines| -> &dyn SourceLines { lines })
    }

    /// What crossed the link so far.
    pub fn counts(&self) -> Counts {
        self.cache.inner().inner().counts()
    }

    /// What attaching took of [`Session::counts`].
    pub fn attach_counts(&self) -> Counts {
        self.attach
    }

    /// What `monitor stats` and `--stats` print, a line each.
    #[must_use]
    pub fn stats(&self) -> String {
        let (hits, misses) = self.cache.hits_and_misses();
        let mut text = format!(
            "attach: {}\ntotal: {}\ncache: {hits} sectors of 512 bytes hit, {misses} fetched",
            self.attach,
            self.counts()
        );
        if let Some(link) = &self.link {
            let client = link.client();
            text.push_str(&format!("\nlink: {}\nlatency: {}", client.stats(), client.latencies()));
        }
        text
    }
}
