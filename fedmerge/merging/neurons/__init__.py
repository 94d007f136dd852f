"""What is known of the neurons of several networks: sums over images, maps between neurons, clusters."""
