//! Reads and writes PEM files: bounded, secrets only with the right mode, writes all or nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use super::PkiError;

/// Largest PEM file that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Permission bits of everybody but the owner.
#[cfg(unix)]
const MODE_OTHERS: u32 = 0o077;

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PkiError + 'a {
    move |source| PkiError::File { operation, path: path.to_owned(), source }
}

/// Reads a file of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let file = File::open(path).map_err(failed("read", path))?;
    read_open(file, path)
}

/// Reads a private key, unless others can read it too.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, PkiError> {
    let file = File::open(path).map_err(failed("read", path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Of the open file, not of the path: what is checked is what is read.
        let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o777;
        if mode & MODE_OTHERS != 0 {
            return Err(PkiError::Exposed { path: path.to_owned(), mode });
        }
    }
    read_open(file, path)
}

fn read_open(file: File, path: &Path) -> Result<Vec<u8>, PkiError> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {FILE_BYTES_MAX} bytes"));
        return Err(failed("read", path)(source));
    }
    Ok(bytes)
}

/// Writes a file that everybody may read, or a secret that only the owner may; the name appears with all of the contents
/// or not at all.
pub(super) fn write(path: &Path, bytes: &[u8], secret: bool) -> Result<(), PkiError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = write_new(&temporary, bytes, secret).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_folder(path)).map_err(failed("write", path))
}

fn write_new(path: &Path, bytes: &[u8], secret: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if secret { 0o600 } else { 0o644 });
    }
    #[cfg(not(unix))]
    let _ = secret;
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        #[cfg(unix)]
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Makes a folder that only its owner may enter.
pub(super) fn make_folder(path: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(failed("make", path))
}
