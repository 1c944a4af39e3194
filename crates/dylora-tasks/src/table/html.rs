//! What pages need of a table beyond its numbers.

use super::{Layout, Settings, Table};
use crate::error::Result;
use crate::report;

impl Table {
    /// One HTML page without scripts and without references to other files.
    ///
    /// # Errors
    /// If a chart cannot be drawn.
    pub fn to_html(&self) -> Result<String> {
        report::table_page(self)
    }

    /// What stands in its columns.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What its runs share.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the lines of a rank stand together.
    pub(crate) fn is_by_rank(&self) -> bool {
        self.by_rank
    }

    /// Whether any number of the paper is known.
    pub(crate) fn paper_is_known(&self) -> bool {
        self.paper_is_known
    }

    /// Whether somebody has said that model and data are the paper's.
    pub(crate) fn is_comparable(&self) -> bool {
        self.caption
            .as_ref()
            .is_some_and(|caption| caption.same_setting_as_paper)
    }
}
