"""A singular vector's sign is free, yet moments outlive a subspace, so the sign would decide the path after the first refresh. Here it is
fixed: at first each vector's largest entry is positive, later each vector has a positive product with its predecessor."""


def fix_signs(projector, method):
    """Wraps projector.method(self, weights, rank, type), which returns rows for type "right" and columns for "left"."""
    svd = getattr(projector, method)

    def signed(self, weights, rank, type):
        p = svd(self, weights, rank, type)
        vectors = p if type == "right" else p.T  # rows
        if self.ortho_matrix is None:
            flip = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).squeeze(1) < 0
        else:
            old = self.ortho_matrix if type == "right" else self.ortho_matrix.T
            flip = (old * vectors).sum(1) < 0
        vectors[flip] *= -1
        return p

    setattr(projector, method, signed)
