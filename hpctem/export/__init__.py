"""A subset as files that other programs read: HDF5, TFRecord, WebDataset, TIFF, PNG, EMD.

`plan` says which image goes where and as what, one module for each format writes it, `metadata` and
`croissant` describe it, `job` does all of that at any number of ranks with the same bytes.
"""
