//! The comments of the contract on its operations and fields.

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

/// The first sentence of a comment, or its main clause, for a line of a list. It has no full
/// stop.
pub fn summary(comment: &str) -> &str {
    let ends = [". ", ": ", "; "].into_iter().filter_map(|end| comment.find(end));
    let end = ends.min().unwrap_or(comment.len());
    let first = comment[..end].trim_end_matches('.');
    match first.split_once(", ") {
        Some((main, _)) if first.len() > SUMMARY_BYTES_MAX => main,
        _ => first,
    }
}
