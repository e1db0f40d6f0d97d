"""When and where the drafter is trained, and which of its versions serves."""
