"""The main job on one machine: a cluster, service instances and Traefik, all real."""
