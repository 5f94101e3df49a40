//! A look over the protobuf bytes before they are decoded. A decoded message can be a hundred times as large as its bytes
//! (two bytes make an empty node), so entries are counted first, and nested graphs are refused before anybody recurses.

use super::refused;
use crate::error::ModelError;

/// Most entries of all messages that are looked into.
const ENTRIES_MAX: u32 = 100_000;
/// Longest text or packed list that is not a tensor's data, in bytes.
const PLAIN_BYTES_MAX: usize = 1024 * 1024;

/// Messages of `onnx.proto` that are looked into.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Entry,
}

/// What a length-delimited field holds.
enum Content {
    Message(Kind),
    Data,
    Plain,
    Forbidden(&'static str),
}

fn content(kind: Kind, field: u64) -> Content {
    use Content::{Data, Forbidden, Message, Plain};
    match (kind, field) {
        (Kind::Model, 7) => Message(Kind::Graph),
        (Kind::Model, 8 | 14) => Message(Kind::Entry),
        (Kind::Model, 20) => Forbidden("a training part"),
        (Kind::Model, 25) => Forbidden("functions"),
        (Kind::Graph, 1) => Message(Kind::Node),
        (Kind::Graph, 5) => Message(Kind::Tensor),
        (Kind::Graph, 11..=13) => Message(Kind::ValueInfo),
        (Kind::Graph, 14 | 16) => Message(Kind::Entry),
        (Kind::Graph, 15) => Forbidden("sparse tensors"),
        (Kind::Node, 5) => Message(Kind::Attribute),
        (Kind::Attribute, 5) => Message(Kind::Tensor),
        (Kind::Attribute, 6 | 11) => Forbidden("a nested graph"),
        (Kind::Attribute, 10 | 15 | 22 | 23) => Forbidden("an attribute of many tensors or of types"),
        (Kind::Tensor, 4 | 9) => Data,
        (Kind::Tensor, 13) => Forbidden("external data"),
        (Kind::ValueInfo, 2) => Message(Kind::Type),
        (Kind::Type, 1) => Message(Kind::TensorType),
        (Kind::TensorType, 2) => Message(Kind::Shape),
        (Kind::Shape, 1) => Message(Kind::Entry),
        _ => Plain,
    }
}

/// Refuses bytes that would decode into too much.
pub(super) fn scan(bytes: &[u8]) -> Result<(), ModelError> {
    walk(bytes, Kind::Model, &mut 0)
}

fn walk(mut bytes: &[u8], kind: Kind, entries: &mut u32) -> Result<(), ModelError> {
    while !bytes.is_empty() {
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(refused(format!("over {ENTRIES_MAX} entries")));
        }
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            5 => drop(take(&mut bytes, 4)?),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).map_err(|_| truncated())?;
                let inner = take(&mut bytes, len)?;
                match content(kind, key >> 3) {
                    Content::Message(inner_kind) => walk(inner, inner_kind, entries)?,
                    Content::Data => {}
                    Content::Plain if len <= PLAIN_BYTES_MAX => {}
                    Content::Plain => return Err(refused(format!("a text or list of {len} bytes"))),
                    Content::Forbidden(what) => return Err(refused(what)),
                }
            }
            wire => return Err(ModelError::malformed("the ONNX file", format!("wire type {wire}"))),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ModelError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ModelError::malformed("the ONNX file", "a number of over 10 bytes"))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], ModelError> {
    let (head, rest) = bytes.split_at_checked(len).ok_or_else(truncated)?;
    *bytes = rest;
    Ok(head)
}

fn truncated() -> ModelError {
    ModelError::malformed("the ONNX file", "it ends in the middle of a message")
}
