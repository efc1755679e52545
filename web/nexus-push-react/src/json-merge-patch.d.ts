// The package comes without types.
declare module 'json-merge-patch' {
  const jsonMergePatch: {
    /** Applies `patch` and returns the result. Changes `target`. */
    apply(target: unknown, patch: unknown): unknown;
  };
  export default jsonMergePatch;
}
