import { Component, type ReactNode } from 'react';

interface Props {
  children: ReactNode;
  /** Replaces a part that could not be shown. Default: the reason and a button that reloads the page. */
  fallback?: ((error: Error) => ReactNode) | undefined;
}

/** Time until a part with a fallback is tried again: the next payload may be valid. */
const AGAIN_MS = 5000;

/** Shows the error of one part of the page; the other parts are not affected. */
export class ErrorBoundary extends Component<Props, { error: Error | undefined }> {
  override state: { error: Error | undefined } = { error: undefined };
  #timer: ReturnType<typeof setTimeout> | undefined;

  static getDerivedStateFromError(error: unknown) {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override componentDidCatch() {
    if (this.props.fallback === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.setState({ error: undefined }), AGAIN_MS);
  }

  override componentWillUnmount() {
    clearTimeout(this.#timer);
  }

  override render() {
    const { error } = this.state;
    const { children, fallback } = this.props;
    if (error === undefined) return children;
    if (fallback !== undefined) return fallback(error);
    // Most often: the server was upgraded, and the parts of the old page are gone.
    return (
      <div className="note" role="alert">
        <p>This part of the page could not be shown: {error.message}</p>
        <button type="button" className="button" onClick={() => window.location.reload()}>
          Load the page again
        </button>
      </div>
    );
  }
}
