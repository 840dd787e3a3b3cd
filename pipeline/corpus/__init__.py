"""Raw text in, token files out: sources, readers, splits, tokenizers, token files, batches."""
