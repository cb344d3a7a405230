//! How what was proved is known: one line for each value `info` prints, and one for what was not believed.

use crate::{
    addr::hex_bytes,
    kernel::{Confidence, Evidence},
    paging::Levels,
};

use super::{
    Hints, Sighting,
    banner::Banner,
    claims::Noted,
    identity::{NOTED, NOTES},
    proof::Proof,
};

/// Writes down how the image, the tables and the identity were found.
pub(super) fn describe(
    sighting: &Sighting,
    proof: &Proof<'_>,
    hints: &Hints<'_>,
    evidence: &mut Vec<Evidence>,
) {
    release(proof, evidence);
    build_id(proof, hints, evidence);
    place(sighting, proof, evidence);
    vmcoreinfo(proof, evidence);
}

fn add(
    evidence: &mut Vec<Evidence>,
    what: &'static str,
    method: &'static str,
    detail: impl Into<String>,
    confidence: Confidence,
) {
    evidence.push(Evidence { what, method, detail: detail.into(), confidence });
}

fn proved_if(second: bool) -> Confidence {
    if second { Confidence::Proved } else { Confidence::Found }
}

/// Release and banner: the banner, `init_uts_ns` and VMCOREINFO each say the first.
fn release(proof: &Proof<'_>, evidence: &mut Vec<Evidence>) {
    let identity = &proof.identity;
    let Some(release) = identity.release() else { return };
    let noted = identity.vmcoreinfo.as_ref().and_then(|noted| noted.info.release());
    let sources = [
        ("linux_banner", identity.banner.as_ref().and_then(Banner::release)),
        ("init_uts_ns", identity.uts.as_ref().map(|uts| uts.release.as_str())),
        ("VMCOREINFO", noted),
    ];
    let mut same = sources.iter().filter(|(_, said)| *said == Some(release)).map(|(name, _)| *name);
    let first = same.next().unwrap_or("linux_banner");
    let others: Vec<&str> = same.collect();
    let agreed = proved_if(!others.is_empty());
    let detail = if others.is_empty() {
        release.to_owned()
    } else {
        format!("{release}, as in {}", others.join(" and "))
    };
    add(evidence, "release", first, detail, agreed);
    for (name, said) in sources {
        if let Some(said) = said.filter(|said| *said != release) {
            add(evidence, "release", name, format!("says {said}"), Confidence::Dropped);
        }
    }
    if let Some(banner) = &identity.banner {
        add(evidence, "banner", banner.method, "read through the page tables", agreed);
    }
}

fn build_id(proof: &Proof<'_>, hints: &Hints<'_>, evidence: &mut Vec<Evidence>) {
    let identity = &proof.identity;
    let noted = identity.vmcoreinfo.as_ref().and_then(|noted| noted.info.build_id());
    let Some(found) = &identity.build_id else { return };
    let hex = hex_bytes(&found.id);
    let is_vmlinux = hints.build_id == Some(found.id.as_slice());
    let is_noted = found.source != NOTED && noted.as_ref() == Some(&found.id);
    let (detail, confidence) = match (is_vmlinux, is_noted) {
        (true, _) => (format!("{hex}, as in the vmlinux"), Confidence::Proved),
        (_, true) => (format!("{hex}, as in VMCOREINFO"), Confidence::Proved),
        _ if found.source == NOTES => (hex, Confidence::Found),
        _ => (format!("{hex}; some stable kernels print other bytes there"), Confidence::Guessed),
    };
    add(evidence, "build id", found.source, detail, confidence);
    if let Some(noted) = noted.filter(|noted| *noted != found.id) {
        let detail = format!("its BUILD-ID {} is not what .notes has", hex_bytes(&noted));
        add(evidence, "build id", NOTED, detail, Confidence::Dropped);
    }
}

/// Where the image and its tables are.
fn place(sighting: &Sighting, proof: &Proof<'_>, evidence: &mut Vec<Evidence>) {
    let Proof { image, identity, root, slide, tables, .. } = proof;
    let noted = |name| identity.vmcoreinfo.as_ref().and_then(|noted| noted.info.number(name));
    let levels = tables.levels.count();
    let seen = format!("{} through the {levels}-level tables at {}", image.text, sighting.root);
    add(evidence, "text", sighting.method, seen, Confidence::Proved);

    if let Some(rodata) = image.rodata().filter(|_| !image.is_protected()) {
        let detail = format!(
            "{}: nothing protects it from writing, as in a kernel that still boots, or with rodata=off",
            rodata.virt
        );
        add(evidence, "rodata", "linux_banner at 2 MiB", detail, Confidence::Found);
    }

    let phys_base = image.phys_base();
    let variable = proof.names.addr("phys_base").and_then(|addr| proof.space.read_u64(addr).ok());
    let others = [("its variable", variable), ("VMCOREINFO", noted("phys_base"))];
    let same: Vec<&str> =
        others.iter().filter(|(_, value)| *value == Some(phys_base)).map(|(name, _)| *name).collect();
    let so = if same.is_empty() { String::new() } else { format!(", as in {}", same.join(" and ")) };
    let detail = format!("{phys_base:#x}: {} is mapped to {}{so}", image.text, image.text_phys);
    add(evidence, "phys_base", "page tables", detail, proved_if(!same.is_empty()));
    if let Some(value) = variable.filter(|value| *value != phys_base) {
        add(evidence, "phys_base", "variable", format!("holds {value:#x}"), Confidence::Dropped);
    }

    add(evidence, "slide", slide.method, slide.detail.clone(), slide.confidence);
    add(evidence, "root", root.method, root.table.to_string(), proved_if(root.agrees));
    let five = u64::from(tables.levels == Levels::Five);
    let (method, confidence) = match (sighting.levels, noted("pgtable_l5_enabled")) {
        (Some(_), _) if sighting.entry.is_some() => ("CR4 in the trampoline's header", Confidence::Proved),
        (_, Some(noted)) if noted == five => ("VMCOREINFO", Confidence::Proved),
        _ => ("tried", Confidence::Found),
    };
    add(evidence, "levels", method, format!("{levels}, and so the kernel can be read"), confidence);
    let mask = tables.encryption_mask;
    let (method, detail) = match mask {
        0 => ("page tables", "they are walked without it"),
        _ if sighting.entry.is_some() => ("trampoline's header", "the page tables are walked with it"),
        _ => ("VMCOREINFO", "the page tables are walked with it"),
    };
    let second = noted("sme_mask") == Some(mask) || mask != 0;
    add(evidence, "sme_mask", method, detail, proved_if(second));
}

/// VMCOREINFO, and the copies of it that were not believed.
fn vmcoreinfo(proof: &Proof<'_>, evidence: &mut Vec<Evidence>) {
    if let Some(Noted { info, source, .. }) = &proof.identity.vmcoreinfo {
        let detail =
            format!("{} bytes, at one with the page tables and the kernel's own strings", info.text().len());
        add(evidence, "VMCOREINFO", source, detail, Confidence::Proved);
    }
    for refused in &proof.identity.refused {
        add(evidence, "VMCOREINFO", refused.source, refused.reason.clone(), Confidence::Dropped);
    }
}
