//! Between two steps.
