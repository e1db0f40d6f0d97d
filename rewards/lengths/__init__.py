"""Terms about how long an answer is, how much it thinks and how often it calls tools."""
