"""The stages of the pipeline: files in, files out, one process each. They meet through files and never import each other."""
