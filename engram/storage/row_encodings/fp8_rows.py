"""Names of the encodings of fp8 rows; for headers, without numpy."""

# With the scales of a row after its codes, and in two tensors.
ROW264, TWO_TENSORS = "e4m3_e8m0_32_row264", "e4m3_e8m0_32"
