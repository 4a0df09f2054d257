//! What the contract says of an operation or a field, in its own comments.

use prost_reflect::FieldDescriptor;

use crate::http::routes::Route;

/// The comment of a method in the contract.
pub fn method_comment(route: &Route) -> String {
    let file = route.method.parent_file();
    comment_at(&file, route.method.path())
}

/// The comment of a field in the contract.
pub fn comment(field: &FieldDescriptor) -> String {
    comment_at(&field.parent_file(), field.path())
}

fn comment_at(file: &prost_reflect::FileDescriptor, path: &[i32]) -> String {
    let descriptor = file.file_descriptor_proto();
    let locations = descriptor.source_code_info.iter().flat_map(|info| &info.location);
    let location = locations.into_iter().find(|location| location.path == path);
    let text = location.map_or("", |location| location.leading_comments());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The most bytes of a summary that is not cut at its first comma.
const SUMMARY_BYTES_MAX: usize = 90;

/// What a comment says first, for a line of a list: without what it goes on to say, and without
/// a full stop.
pub fn summary(comment: &str) -> &str {
    let ends = [". ", ": ", "; "].into_iter().filter_map(|end| comment.find(end));
    let end = ends.min().unwrap_or(comment.len());
    let first = comment[..end].trim_end_matches('.');
    match first.split_once(", ") {
        Some((main, _)) if first.len() > SUMMARY_BYTES_MAX => main,
        _ => first,
    }
}
