"""What a person sees of a group: views as data, panels, whole figures, curves."""
