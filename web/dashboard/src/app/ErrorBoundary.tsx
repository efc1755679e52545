import { Component, type ReactNode } from 'react';

/** Shows what went wrong in one part of the page, and leaves the others alone. */
export class ErrorBoundary extends Component<{ children: ReactNode }, { error: Error | undefined }> {
  override state: { error: Error | undefined } = { error: undefined };

  static getDerivedStateFromError(error: unknown) {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override render() {
    const { error } = this.state;
    if (error === undefined) return this.props.children;
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
