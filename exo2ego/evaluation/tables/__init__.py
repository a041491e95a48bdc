"""The paper's Tables 1 to 6: published cells, measured cells beside them, and what follows."""
