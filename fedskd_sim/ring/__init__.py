"""Who hosts whose model at each hop, what one hospital does, and the ways around the lost."""
