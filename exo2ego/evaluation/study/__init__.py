"""The user study of the paper's sections 4.2 and 9: build it, serve it, score its votes."""
