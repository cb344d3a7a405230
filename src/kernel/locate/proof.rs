//! From "there may be a kernel" to "this kernel, proved": what every [`Sighting`] has to pass.
//!
//! Page tables that map something are no proof: a wrong depth or a previous kernel's leftovers do as well. So the
//! kernel must say who it is through those very tables, in its banner, and VMCOREINFO, `.notes` and the entry
//! point in the trampoline must not contradict it.

use std::{cell::OnceCell, sync::Arc};

use crate::{
    addr::{PAGE_SIZE, PhysAddr, VirtAddr},
    mem::PhysMem,
    paging::{AddressSpace, Levels, VirtMem, runs::Tables},
    symbols::{Symbol, SymbolTable},
};

use super::{
    Sighting, Target,
    claims::{Seen, same_image},
    exports::Exports,
    identity::{self, Identity},
    image::Image,
    slide::{self, Slide},
};

/// Pages of the image's data among which `init_top_pgt` is looked for: it is near the start, from `head_64.S`.
const MAX_ROOT_PAGES: usize = 256;
/// Where read-only data is not told from it: 64 MiB, more than any image has.
const MAX_UNPROTECTED_PAGES: usize = 16 << 10;

/// Where names are found once the kernel is.
pub(super) enum Names<'a> {
    /// The kernel's own vmlinux, and the slide.
    Vmlinux(&'a dyn SymbolTable, u64),
    /// What the kernel exports to modules.
    Exports(Exports),
    /// Nowhere.
    None,
}

impl Names<'_> {
    /// Run-time address of a symbol.
    pub(super) fn addr(&self, name: &str) -> Option<VirtAddr> {
        match self {
            Self::Vmlinux(symbols, slide) => {
                Some(VirtAddr::new(symbols.lookup(name)?.addr.raw().wrapping_add(*slide)))
            }
            Self::Exports(exports) => exports.lookup(name),
            Self::None => None,
        }
    }
}

/// A kernel that passed.
pub(super) struct Proof<'a> {
    pub(super) image: Arc<Image>,
    pub(super) space: Arc<dyn VirtMem>,
    pub(super) tables: Tables,
    pub(super) root: Root,
    pub(super) names: Names<'a>,
    pub(super) identity: Identity,
    /// There is a vmlinux, and it is this kernel's (or forced).
    pub(super) by_vmlinux: bool,
    pub(super) slide: Slide,
}

/// The live top-level table and how it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) table: PhysAddr,
    pub(super) method: &'static str,
    /// A second source has it: a name and the page tables, or a copy.
    pub(super) agrees: bool,
}

/// The top-level page table, by the names it has had.
pub const TOP_LEVEL_TABLE: [&str; 3] = ["init_top_pgt", "swapper_pg_dir", "init_level4_pgt"];

/// Its symbol.
pub(super) fn top_level_symbol(symbols: &dyn SymbolTable) -> Option<Symbol> {
    TOP_LEVEL_TABLE.iter().find_map(|name| symbols.lookup(name))
}

/// Puts `sighting` to the proof; the error says in words what did not hold.
pub(super) fn prove<'a>(target: &Target<'a>, sighting: &Sighting) -> Result<Proof<'a>, String> {
    let depths: &[Levels] = match sighting.levels {
        Some(Levels::Four) => &[Levels::Four],
        Some(Levels::Five) => &[Levels::Five],
        None => &[Levels::Five, Levels::Four],
    };
    let mut refusals = Vec::new();
    for &levels in depths {
        match prove_depth(target, sighting, levels) {
            Ok(proof) => return Ok(proof),
            Err(reason) => refusals.push(format!("with {} levels {reason}", levels.count())),
        }
    }
    Err(refusals.join(", "))
}

fn prove_depth<'a>(target: &Target<'a>, sighting: &Sighting, levels: Levels) -> Result<Proof<'a>, String> {
    let tables = Tables { root: sighting.root, levels, encryption_mask: sighting.encryption_mask };
    let mut image = Image::survey(&*target.tables, tables).map_err(|error| error.to_string())?;
    if let Some(entry) = sighting.entry.filter(|entry| !image.is_text(*entry)) {
        return Err(format!("the processors' entry point {entry} is not in the text at {}", image.text));
    }
    if let Some(text_phys) = sighting.text_phys.filter(|phys| *phys != image.text_phys) {
        return Err(format!("_text is mapped to {}, but stands at {text_phys}", image.text_phys));
    }
    image.find_unprotected(&*target.tables);
    let image = Arc::new(image);
    let mem = Arc::clone(&target.tables);
    let space: Arc<dyn VirtMem> =
        Arc::new(AddressSpace::new(mem, sighting.root, levels, sighting.encryption_mask));

    let seen = Seen {
        target,
        space: &*space,
        image: &image,
        tables,
        release: None,
        slide: None,
        start: OnceCell::new(),
    };
    let (names, identity, by_vmlinux) = identify(sighting, seen, (&space, &image));
    if identity.release().is_none() {
        let reason = match image.is_protected() {
            true => "",
            false => ", and no right in the page tables says where its read-only data is",
        };
        return Err(format!("no linux_banner can be read{reason}"));
    }
    let slide = match &identity.vmcoreinfo {
        Some(noted) => noted.slide.clone(),
        None => slide::alone(&image, by_vmlinux.map(|(slide, _)| slide)),
    };
    let root = live_root(target, sighting, &image, &names, &identity);
    Ok(Proof { image, space, tables, root, names, identity, by_vmlinux: by_vmlinux.is_some(), slide })
}

/// Asks the kernel who it is: where the vmlinux says to, else (none given, or another build's) by itself. With the
/// slide by the vmlinux, and whether that is of the kernel's own build.
fn identify<'a>(
    sighting: &Sighting,
    mut seen: Seen<'_, 'a>,
    (space, image): (&Arc<dyn VirtMem>, &Arc<Image>),
) -> (Names<'a>, Identity, Option<(u64, bool)>) {
    let hints = seen.target.hints;
    let linked = hints.symbols.and_then(|symbols| Some((symbols, symbols.lookup("_text")?.addr)));
    let slide = linked.map(|(_, text)| image.text.raw().wrapping_sub(text.raw()));
    if let Some(((symbols, _), slide)) = linked.zip(slide) {
        let names = Names::Vmlinux(symbols, slide);
        seen.slide = Some((slide, true));
        let identity = identity::with_names(&names, sighting, seen.clone());
        let found = identity.build_id.as_ref().map(|found| found.id.as_slice());
        let same_build = hints.build_id.is_none_or(|id| found == Some(id));
        if identity.banner.is_some() && same_build {
            return (names, identity, Some((slide, true)));
        }
    }
    seen.slide = slide.filter(|_| hints.force).map(|slide| (slide, false));
    let exports = Exports::find(space, image);
    let forced = seen.slide;
    let identity = identity::without_names(exports.as_ref(), sighting, seen);
    (exports.map_or(Names::None, Names::Exports), identity, forced)
}

/// The table the kernel itself uses: the trampoline's is a copy that later changes may not reach.
fn live_root(
    target: &Target<'_>,
    sighting: &Sighting,
    image: &Image,
    names: &Names<'_>,
    identity: &Identity,
) -> Root {
    let by_symbol = match names {
        Names::Vmlinux(symbols, slide) => {
            top_level_symbol(*symbols).map(|symbol| VirtAddr::new(symbol.addr.raw().wrapping_add(*slide)))
        }
        _ => None,
    };
    let by_info = || identity.vmcoreinfo.as_ref()?.info.top_level_table();
    let named = [by_symbol.zip(Some("symbol init_top_pgt")), by_info().zip(Some("VMCOREINFO"))];
    let mut tables =
        named.into_iter().flatten().filter_map(|(addr, method)| Some((image.phys(addr)?, method)));
    // What does not map this image as the tables seen do is somebody else's, or wrong.
    if let Some((table, method)) = tables.find(|(table, _)| same_image(target, *table, sighting.root)) {
        return Root { table, method, agrees: true };
    }
    let copied = sighting.copied_root.as_deref().and_then(|copy| original(target, image, copy));
    match copied {
        Some(table) => Root { table, method: "the page of the image's data equal to the copy", agrees: true },
        None => {
            let inside = image.phys_range().is_some_and(|range| range.contains(sighting.root, PAGE_SIZE));
            Root { table: sighting.root, method: sighting.method, agrees: inside }
        }
    }
}

/// The page of the image's data whose kernel half holds all that `copy`'s does (on older kernels its last slot alone), by one
/// word of each page first.
fn original(target: &Target<'_>, image: &Image, copy: &[u8; PAGE_SIZE as usize]) -> Option<PhysAddr> {
    const HALF: usize = PAGE_SIZE as usize / 2;
    let last: [u8; 8] = *copy.last_chunk()?;
    let most = if image.is_protected() { MAX_ROOT_PAGES } else { MAX_UNPROTECTED_PAGES };
    let pages: Vec<PhysAddr> = image.data_pages().take(most).collect();
    let ends: Vec<PhysAddr> = pages.iter().map(|page| page.wrapping_add(PAGE_SIZE - 8)).collect();
    let words = target.led.read_each::<8>(&ends);
    let equal = |page: &PhysAddr| {
        let mut half = [0; HALF];
        let read = target.tables.read(page.wrapping_add(HALF as u64), &mut half);
        let slots = half.chunks_exact(8).zip(copy.chunks_exact(8).skip(256));
        read.is_ok() && { slots }.all(|(own, copied)| own == copied || copied == [0; 8])
    };
    let mut alike =
        pages.into_iter().zip(words).filter(|(_, word)| word.as_ref().is_ok_and(|word| *word == last));
    alike.find(|(page, _)| equal(page)).map(|(page, _)| page)
}

/// Reads the places that are known, in one batch; `None` for each that is not, or could not be read.
pub(super) fn read_known(space: &dyn VirtMem, wanted: &[(Option<VirtAddr>, usize)]) -> Vec<Option<Vec<u8>>> {
    let known: Vec<(VirtAddr, usize)> =
        wanted.iter().filter_map(|(addr, len)| Some(((*addr)?, *len))).collect();
    let mut read = space.read_ranges(&known).into_iter();
    wanted.iter().map(|(addr, _)| addr.and_then(|_| read.next()?.ok())).collect()
}
