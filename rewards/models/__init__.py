"""Models that rewards may ask: where they are, how they are asked, and how what they say is read."""
