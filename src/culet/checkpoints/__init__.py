"""Model folders of culet and of other libraries, in and out. No torch."""
