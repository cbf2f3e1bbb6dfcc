"""What logging costs, measured; see README.md in this folder. No part of the package."""
