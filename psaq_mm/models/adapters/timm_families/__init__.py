"""timm's families of transformers, of which most keep their own forward (:mod:`..intercepted`)."""
