"""What a model is: its architecture, its layers' inputs, its config, the work that it takes."""
