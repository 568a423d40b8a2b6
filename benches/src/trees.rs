//! Directory trees beside the programs that people copy them with.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::{Measured, Result, installed, once};
use crate::pipeline::Deltabus;
use crate::rows::mix;
use crate::syncthing::Syncthing;

/// Files in one folder.
const FOLDER_FILES: u32 = 500;

/// One tree on its way to one copy.
struct Pair {
    source: PathBuf,
    copy: PathBuf,
}

/// Makes bytes that don't pack.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes + 8);
    let mut at = seed;
    while noise.len() < bytes {
        at = at.wrapping_add(1);
        noise.extend_from_slice(&mix(at).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

fn fill(root: &Path, files: u32, large: u32) -> Result<()> {
    for at in 0..files {
        let folder = root.join(format!("folder{:04}", at / FOLDER_FILES));
        fs::create_dir_all(&folder)?;
        let bytes = 200 + (mix(at.into()) % 6_000) as usize;
        fs::write(folder.join(format!("file{at:06}.bin")), noise(u64::from(at) << 20, bytes))?;
    }
    let mut file = fs::File::create(root.join("large.bin"))?;
    for at in 0..large {
        file.write_all(&noise(u64::from(at) << 40, 1 << 20))?;
    }
    Ok(())
}

/// Puts some bytes into the middle of the large file.
fn edit(root: &Path) -> Result<()> {
    let path = root.join("large.bin");
    let mut content = fs::read(&path)?;
    let middle = content.len() / 2;
    content.splice(middle..middle, noise(7, 800));
    fs::write(root.join("large.new"), content)?;
    Ok(fs::rename(root.join("large.new"), path)?)
}

/// Moves a folder with all its files.
fn rename(root: &Path) -> Result<()> {
    Ok(fs::rename(root.join("folder0000"), root.join("renamed"))?)
}

/// Empties the page cache's queue, so that nobody pays for what another wrote.
fn sync() -> Result<()> {
    Command::new("sync").status()?;
    Ok(())
}

type Step<'a> = &'a mut dyn FnMut(&Pair) -> Result<(Measured, Option<u64>)>;

/// First copy, a look that finds nothing, a small edit in the large file, a renamed folder.
pub(crate) fn trees(files: u32, large: u32) -> Result<()> {
    println!("a tree of {files} small files and one of {large} MiB");
    println!("{:<28} {:<22} {:>9} {:>9} {:>11} {:>14}", "", "", "seconds", "ratio", "peak MiB", "bytes moved");
    let mut reference: Vec<Measured> = Vec::new();
    // Kept to the end: after many deletes some file systems make new files slowly for minutes.
    let mut kept: Vec<tempfile::TempDir> = Vec::new();
    let mut play = |name: &str, step: Step<'_>| -> Result<()> {
        let folder = tempfile::tempdir()?;
        let pair = Pair { source: folder.path().join("source"), copy: folder.path().join("copy") };
        fs::create_dir(&pair.source)?;
        fill(&pair.source, files, large)?;
        let first = reference.is_empty();
        for (at, what) in ["first copy", "nothing new", "edit in the large file", "renamed folder"].iter().enumerate() {
            match at {
                2 => edit(&pair.source)?,
                3 => rename(&pair.source)?,
                _ => {}
            }
            sync()?;
            let (measured, moved) = step(&pair)?;
            if first {
                reference.push(measured);
            }
            let moved = moved.map_or("?".into(), |bytes| bytes.to_string());
            let ratio = measured.seconds / reference[at].seconds;
            println!(
                "{name:<28} {what:<22} {:>9.2} {ratio:>8.2}x {:>11.0} {moved:>14}",
                measured.seconds, measured.peak_mib
            );
        }
        kept.push(folder);
        let same = Command::new("diff")
            .arg("-r")
            .args(["--exclude=.deltabus", "--exclude=.stfolder"])
            .arg(&pair.source)
            .arg(&pair.copy)
            .status()?;
        if same.success() { Ok(()) } else { Err(format!("{name}: the copy is not equal").into()) }
    };
    if installed("rsync") {
        // Over a pipe, as over the network: locally rsync copies whole files.
        play("rsync -a --delete, by delta", &mut |pair| {
            let mut command = Command::new("rsync");
            let to = format!("{}/", pair.copy.display());
            command.args(["-a", "--delete", "--no-whole-file"]).arg(format!("{}/", pair.source.display())).arg(&to);
            let log = pair.copy.with_file_name("rsync.log");
            let _ = fs::remove_file(&log);
            command.arg(format!("--log-file={}", log.display())).arg("--log-file-format=");
            let measured = once(&mut command, &[0])?;
            let text = fs::read_to_string(&log).unwrap_or_default();
            // "sent 1,234 bytes  received 567 bytes": what would go over a network.
            let sent =
                text.rsplit("sent ").next().and_then(|rest| rest.split(' ').next()?.replace(',', "").parse().ok());
            Ok((measured, sent))
        })?;
    }
    if installed("unison") {
        play("unison -batch", &mut |pair| {
            let mut command = Command::new("unison");
            command
                .arg(&pair.source)
                .arg(&pair.copy)
                .args(["-batch", "-auto", "-silent", "-confirmbigdel=false", "-times", "-perms", "-1"])
                .env("UNISON", pair.copy.with_file_name("unison"));
            Ok((once(&mut command, &[0])?, None))
        })?;
    }
    if installed("syncthing") && installed("curl") {
        let mut running: Option<Syncthing> = None;
        play("Syncthing, both ends", &mut |pair| {
            if running.is_none() {
                let folder = pair.copy.parent().ok_or("a copy lies in a folder")?;
                running = Some(Syncthing::start(folder, &pair.source, &pair.copy)?);
            }
            let syncthing = running.as_ref().ok_or("it was started")?;
            let before = syncthing.moved()?;
            let measured = syncthing.round()?;
            Ok((measured, Some(syncthing.moved()?.saturating_sub(before))))
        })?;
    }
    let mut world: Option<Deltabus> = None;
    play("deltabus, both ends", &mut |pair| {
        if world.is_none() {
            let new = Deltabus::new()?;
            new.run("bus start -q")?;
            world = Some(new);
        }
        let world = world.as_ref().ok_or("no world")?;
        let before = stored(world)?;
        let sent = once(&mut world.command(&format!("transmit tree tree:{} --once -q", pair.source.display())), &[0])?;
        let to = format!("receive tree tree:{} --name copy --once -q", pair.copy.display());
        let received = once(&mut world.command(&to), &[0])?;
        let moved = stored(world)?.saturating_sub(before);
        let both = Measured {
            seconds: sent.seconds + received.seconds,
            cpu_seconds: sent.cpu_seconds + received.cpu_seconds,
            peak_mib: sent.peak_mib.max(received.peak_mib),
        };
        Ok((both, Some(moved)))
    })?;
    play("deltabus copy", &mut |pair| {
        let world = Deltabus::new()?;
        let line = format!("copy tree:{} tree:{} -q", pair.source.display(), pair.copy.display());
        Ok((once(&mut world.command(&line), &[0])?, None))
    })?;
    Ok(())
}

/// Bytes that the bus has on disk.
fn stored(world: &Deltabus) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![world.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if folder.to_string_lossy().contains("jetstream")
                && entry.path().extension().is_some_and(|end| end == "blk")
            {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
