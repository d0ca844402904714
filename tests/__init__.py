import rapids_slr  # noqa: F401  before torch, whose waiting threads would spin: files are tested side by side
