"""Istio and Kubernetes objects, turned into the native form."""
