"""What is true of a STEM image, pixel by pixel and column by column.

`columns` finds the atom columns and lists them and the defects with their places in the image;
`maps` draws the label maps: atom columns, distance, defects. All are computed at the positions
where the scan really stood (`hpctem.detection.scan`), on the host: they are small beside the image,
and no image is needed for them.
"""
