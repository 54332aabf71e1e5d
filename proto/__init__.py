"""The contract's sources, and the program that makes code from them."""
