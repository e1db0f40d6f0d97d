"""Terms that compare an answer with what the data say is right, or look at how it is written."""
