"""Mathematics as pure functions of tensors: no modules, no files, no global randomness."""
