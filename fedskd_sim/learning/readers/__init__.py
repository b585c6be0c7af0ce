"""Where data come from: one module per kind of data, and what they share."""
