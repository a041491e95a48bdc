"""The model of section 3: VAE, Wan, EgoExo-Align, MultiExoCon, PoseInj."""
