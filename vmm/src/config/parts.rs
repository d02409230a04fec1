//! Descriptions on the command line: `key=value,key=value,word`.

/// Gives the parts of `text` to `take`, one after the other, as key and value; a word has no value.
/// What `take` has no use for, because it means nothing or was said already, is refused through
/// `unknown`.
pub(super) fn take_parts<E>(
    text: &str,
    mut take: impl FnMut(&str, Option<&str>) -> Result<bool, E>,
    unknown: impl FnOnce(String) -> E,
) -> Result<(), E> {
    for part in text.split(',') {
        let (key, value) =
            part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        if !take(key, value)? {
            return Err(unknown(part.to_owned()));
        }
    }
    Ok(())
}
