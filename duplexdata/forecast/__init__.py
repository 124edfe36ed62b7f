"""What a build will take, before it is begun: values that follow from a sample of what it will do."""
