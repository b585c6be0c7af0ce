"""What a run has left, for people and programs: tables, reports, pages, exports, comparisons."""
